"""Networks in other formats and libraries, one file per target."""
