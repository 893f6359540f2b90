#> platform=linux/arm64
#> platform=linux/amd64
#> context=busybox::linux/arm64=directory
FROM busybox
COPY --from=busybox /x /y
