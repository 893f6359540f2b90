FROM busybox AS a
FROM nosuch:tag
COPY --from=a / /
