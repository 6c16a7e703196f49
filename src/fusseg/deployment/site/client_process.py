"""The program that stands in for Flower's `flwr-clientapp` at a site."""


def main() -> None:
    """Run the ClientApp of the installed package for one message."""
    from fusseg.deployment.processes import watch_parent

    watch_parent()
    from importlib import import_module

    from flwr.supernode.cli import flwr_clientapp

    from fusseg.deployment.own_code import refuse_other_code

    refuse_other_code(import_module("flwr.supernode.runtime.run_clientapp"))
    flwr_clientapp()


if __name__ == "__main__":
    main()
