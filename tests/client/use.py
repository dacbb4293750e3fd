"""A client that knows only the description of the API: openapi-python-client makes `generated` from
docs/openapi.json. Fails if an answer is not of the described type.

Usage: use.py DIRECTORY-OF-GENERATED SOCKET MOUNTPOINT
"""

import json
import sys

sys.path.insert(0, sys.argv[1])
socket, mountpoint = sys.argv[2:4]

import httpx
from generated import Client
from generated import models
from generated.api.default import (
    delete_mounts,
    delete_seeds_drive,
    get_drives,
    get_drives_drive_content,
    get_drives_drive_entries,
    get_drives_drive_limits,
    get_limits,
    get_mounts,
    get_seeds,
    get_status,
    post_drives,
    post_mounts,
    put_drives_drive_limits,
    put_limits,
    put_seeds_drive,
)

client = Client(
    base_url="http://hypermount",
    timeout=httpx.Timeout(60),
    httpx_args={"transport": httpx.HTTPTransport(uds=socket)},
)


def ask(call, kind, **arguments):
    """The answer to a call, which must be of this kind."""
    answer = call.sync_detailed(client=client, **arguments)
    assert answer.headers["hypermount-api"] == "1"
    assert isinstance(answer.parsed, kind), f"{call.__name__}: {answer.status_code} {answer.parsed}"
    return answer.parsed


status = ask(get_status, models.Status)
assert status.mounts == [] and status.seeds == [] and status.kept
created = ask(post_drives, models.Created, body=models.CreateRequest(name="mine"))
assert created.url.startswith("hyper://")
assert "mine" in {drive.name for drive in ask(get_drives, list)}

names = [entry.name for entry in ask(get_drives_drive_entries, list, drive="-", path="dir")]
content = get_drives_drive_content.sync_detailed(drive="-", path="hello.txt", client=client)

limits = ask(put_limits, models.Limits, body=models.Limits(up=500_000, down=None))
assert ask(get_limits, models.Limits) == limits and limits.up == 500_000 and limits.down is None
own = models.Limits(down=20_000)
ask(put_drives_drive_limits, models.Limits, drive="mine", body=own)
assert ask(get_drives_drive_limits, models.Limits, drive="mine").down == 20_000
assert ask(get_status, models.Status).drive_limits[0].name == "mine"

seed = ask(put_seeds_drive, models.SeedInfo, drive="mine", body=models.SeedRequest())
assert seed.own and [one.url for one in ask(get_seeds, list)] == [created.url]
ask(delete_seeds_drive, models.Done, drive="mine")
assert ask(get_seeds, list) == []

refused = ask(put_limits, models.Failure, body=models.Limits(up=1))
assert refused.to_dict()["code"] == "usage" and "bytes per second" in refused.why
missing = ask(get_drives_drive_entries, models.Failure, drive="absent")
assert missing.to_dict()["code"] == "failed" and missing.hint

mounted = None
if mountpoint:
    mounted = ask(
        post_mounts,
        models.MountInfo,
        body=models.MountRequest(drive="mine", mountpoint=mountpoint),
    )
    assert mounted.url == created.url and not mounted.read_only
    with open(f"{mountpoint}/file", "w") as file:
        file.write("text")
    assert [one.mountpoint for one in ask(get_mounts, list)] == [mountpoint]
    twice = models.MountRequest(drive="mine", mountpoint=mountpoint)
    assert ask(post_mounts, models.Failure, body=twice).to_dict()["code"] == "failed"
    ask(delete_mounts, models.Done, mountpoint=mountpoint)
    assert ask(get_mounts, list) == []

print(
    json.dumps(
        {
            "names": names,
            "content": content.content.decode(),
            "url": created.url,
            "version": mounted and mounted.version,
        }
    )
)
