#> ignore=**/*
FROM busybox
COPY . /
