#> ignore=* !kept
FROM busybox
COPY other /
COPY . /
