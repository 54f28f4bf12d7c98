"""Loading extensions of DuckDB: from a Python package if it is installed, otherwise from DuckDB."""

from importlib import metadata

import duckdb

from mp_pipeline.storage.errors import StorageError


def load_extension(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load an extension, and install it if it is missing.

    The packages ``duckdb-extension-…`` contain extensions for one version of DuckDB, for machines
    that cannot reach DuckDB's own server.

    Raises:
        StorageError: It is not installed and cannot be downloaded; names the package that helps.
    """
    package = f"duckdb-extension-{name.replace('_', '-')}"
    file = f"v{duckdb.__version__}/{name}.duckdb_extension"
    try:
        paths = [path for path in metadata.files(package) or () if str(path).endswith(file)]
    except metadata.PackageNotFoundError:
        paths = []
    try:
        if paths:
            connection.load_extension(str(paths[0].locate()))
        else:
            connection.install_extension(name)
            connection.load_extension(name)
    except duckdb.Error as error:
        raise StorageError(
            f"DuckDB {duckdb.__version__} needs its extension {name}, which could not be "
            f"installed: {str(error).splitlines()[0]}. Without access to DuckDB's server, install "
            f"the package {package}=={duckdb.__version__}, or all that a lake needs, with a DuckDB "
            "that fits: pip install 'mp-pipeline[lake]'"
        ) from error
