FROM busybox AS a
WORKDIR app
WORKDIR again
FROM a
WORKDIR inherited
