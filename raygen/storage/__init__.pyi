from .arrow import ArrowBackend as ArrowBackend
from .backends import Backend as Backend
from .backends import Entry as Entry
from .backends import LocalBackend as LocalBackend
from .location import Location as Location
from .location import below as below
from .location import title_of as title_of
from .retry import persist as persist
