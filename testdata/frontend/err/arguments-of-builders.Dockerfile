#> build-arg=BUILDKIT_MULTI_PLATFORM=often
FROM busybox
