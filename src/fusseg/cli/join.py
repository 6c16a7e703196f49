"""The command `fusseg join`: a site takes part in a federation."""

from pathlib import Path

from platformdirs import user_state_path

from fusseg.cli.progress import Display, follow, show_extraction
from fusseg.cli.stopping import stop_on_terminate
from fusseg.deployment.keys.sites_file import check_site_name
from fusseg.deployment.site.dry_run import describe_sent, rehearse
from fusseg.deployment.site.join import JoinOptions, join
from fusseg.deployment.site.site_disk import SiteSettings
from fusseg.features.extraction import Progress


def site_folder(name: str) -> Path:
    """Choose the folder of a site that gave none, under the user's state folder.

    Raises:
        ConfigError: If the name cannot be the name of a site.
    """
    check_site_name(name)
    return user_state_path("fusseg") / name


def run_join(settings: SiteSettings, options: JoinOptions) -> None:
    """Take part in federations until stopped.

    Raises:
        FussegError: If the settings, the images or the server cannot be used.
    """
    stop_on_terminate()
    with Display() as display:
        for event in join(settings, options):
            if isinstance(event, Progress):
                show_extraction(event, display)
            else:
                display.line(event.text)


def run_dry(settings: SiteSettings, options: JoinOptions) -> None:
    """Extract the features under the pinned settings, and print what would be sent.

    Raises:
        FussegError: If the settings or the images cannot be used.
    """
    with Display() as display:
        messages = follow(rehearse(settings, options), display)
        for line in describe_sent(messages):
            display.line(line)
