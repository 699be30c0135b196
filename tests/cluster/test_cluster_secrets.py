"""What Ray notes about a job, which all users of a cluster see, holds no password."""

import os
import subprocess
import sys

CODE = """
import ray
from raygen.cluster import session

@ray.remote
def search_path():
    import os, sys
    return os.getcwd() in sys.path

with session():
    found = ray.get(search_path.remote())
    jobs = ray._private.worker.global_worker.gcs_client.get_all_job_info().values()
    print([job.entrypoint for job in jobs], found)
"""


def test_ray_notes_no_secret_and_its_workers_do_not_search_the_working_directory(tmp_path, ray_home):
    variables = {
        "HOME": str(ray_home),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_OVERRIDE_RESOURCES": '{"CPU": 1}',
    }
    (tmp_path / "job.py").write_text(CODE)
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        [sys.executable, tmp_path / "job.py", "--out", "s3://KEY:SECRET@bucket/run"], cwd=tmp_path / "here",
        env=os.environ | variables, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "SECRET" not in done.stdout
    assert done.stdout.rstrip().endswith("--out s3://bucket/run'] False")
