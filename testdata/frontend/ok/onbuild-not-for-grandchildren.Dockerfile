FROM busybox AS a
ONBUILD RUN once
FROM a AS b
FROM b
