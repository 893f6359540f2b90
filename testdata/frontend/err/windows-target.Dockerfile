FROM busybox
#> platform=windows/amd64
