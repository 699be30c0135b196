from .location import Location as Location
from .location import below as below
