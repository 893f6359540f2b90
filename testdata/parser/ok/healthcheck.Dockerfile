FROM a
HEALTHCHECK NONE
HEALTHCHECK none
HEALTHCHECK --interval=5m --timeout=1.5s --start-period=0s --start-interval=100ms --retries=3 CMD curl -f http://localhost || exit 1
HEALTHCHECK cmd ["a"]
HEALTHCHECK --interval= CMD a
