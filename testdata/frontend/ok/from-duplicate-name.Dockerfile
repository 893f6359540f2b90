FROM busybox AS a
FROM full AS a
FROM a
COPY --from=a /x /y
COPY --from=0 /x /y
