"""The program that stands in for Flower's `flwr-serverapp`."""


def main() -> None:
    """Run the ServerApp of the installed package."""
    from fusseg.deployment.processes import watch_parent

    watch_parent()
    from importlib import import_module

    from flwr.superlink.cli import flwr_serverapp

    from fusseg.deployment.own_code import refuse_other_code

    refuse_other_code(import_module("flwr.superlink.runtime.run_serverapp"))
    flwr_serverapp()


if __name__ == "__main__":
    main()
