"""The exceptions stlsearch raises on purpose."""


class InputError(ValueError):
    """Bad input: the message is one line that names what was wrong and what is valid.

    The command line prints the message alone and exits with code 2.
    """


class RegistryError(Exception):
    """The registry could not do what was asked (unwritable folder, disk full): one line.

    The command line prints the message alone and exits with code 2.
    """
