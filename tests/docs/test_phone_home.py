"""docs/security.md says that the server connects to nobody."""

from pathlib import Path


def sockets_of(pid: int) -> set[str]:
    """The inodes of its sockets."""
    links = (str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}


def connections(pid: int) -> list[tuple[int, int]]:
    """Local and remote ports of its TCP connections; a remote port of 0 is a listener."""
    own, found = sockets_of(pid), []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in own:
                found.append(tuple(int(address.rsplit(":", 1)[1], 16) for address in fields[1:3]))
    return found


def test_a_server_that_answers_has_no_connection_but_those_of_its_clients(shop):
    server = shop.server("shop")
    connection = server.connect()
    connection.request("GET", "/v1/models")
    assert connection.getresponse().read()
    found = connections(server.process.pid)
    connection.close()
    assert any(remote for _, remote in found), "this test sees the client's connection"
    assert {local for local, _ in found} == {server.port}
