FROM busybox
HEALTHCHECK --interval=0s --timeout=1m --retries=0 CMD ["x"]
FROM busybox
HEALTHCHECK NONE
