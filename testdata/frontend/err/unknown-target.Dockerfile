FROM busybox AS build
FROM busybox AS test
#> target=biuld
