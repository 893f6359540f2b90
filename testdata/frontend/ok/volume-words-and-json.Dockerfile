FROM busybox
ENV V=/data
VOLUME $V /b
VOLUME ["$V/x", "/y z"]
