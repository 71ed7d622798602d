# SPDX-License-Identifier: Apache-2.0
"""sluice queue move: who may be moved where, and that it is so."""
from test_daemon import folder, make_image, sluice, spawn, status, write_config  # noqa: F401


def test_a_queue_is_moved_by_name_and_number(spawn, folder):  # noqa: F811
    image = make_image(folder / "a.raw", 1 << 20)
    config = write_config(
        folder,
        f"""
workers: {{ count: 2 }}
networks:
  - name: lan
    ports: [ {{ name: web, socket: {folder}/web.sock, queues: 2 }} ]
disks:
  - {{ name: root, socket: {folder}/root.sock, file: {image}, queues: 3 }}
""",
    )
    spawn("--config", config)
    for device, queue, worker in (("root", 2, 1), ("root", 2, 0), ("web", 4, 1)):
        result = sluice(folder, "queue", "move", device, str(queue), str(worker))
        assert result.returncode == 0, result.stderr
        assert result.stdout == f"{device} queue {queue} is on worker {worker}\n"

    for words, code, complaint in (
        (("root", "3", "0"), 1, "root has queues 0 to 2, and no 3"),
        (("web", "0", "2"), 1, "there are workers 0 to 1, and no 2"),
        (("wob", "0", "0"), 1, 'no open disk or guest port called "wob"'),
        (("root", "0", "-1"), 2, "queue and worker are numbers"),
        (("root", "0x", "1"), 2, "queue and worker are numbers"),
        (("root", "0"), 2, "queue move DEVICE QUEUE WORKER"),
    ):
        result = sluice(folder, "queue", "move", "--", *words)
        assert (result.returncode, complaint in result.stderr) == (code, True), result.stderr
    assert len(status(folder)["workers"]) == 2
