"""Write what Grafana reads: `python -m dashboards`."""

from dashboards import physics, pipeline, scans, triton
from dashboards.assembly import as_json
from dashboards.queries import FOLDER


def files() -> dict[str, str]:
    """Names and contents of all files in the folder."""
    boards = [module.board() for module in (pipeline, triton, scans, physics)]
    return {f"{board.name}.json": as_json(board) for board in boards}


def main() -> None:
    """Write each dashboard, and remove what is none any more."""
    contents = files()
    for name, content in contents.items():
        (FOLDER / name).write_text(content)
    for path in FOLDER.glob("*.json"):
        if path.name not in contents:
            path.unlink()


if __name__ == "__main__":
    main()
