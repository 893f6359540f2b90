FROM a
HEALTHCHECK
HEALTHCHECK NONE x
HEALTHCHECK CMD
HEALTHCHECK CMD []
HEALTHCHECK CMDD x
HEALTHCHECK curl
HEALTHCHECK --interval=5 --timeout=1us --start-period=-1s --retries=-1 CMD x
HEALTHCHECK --retries=x --start-interval=x CMD x
