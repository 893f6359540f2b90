FROM busybox
#> build-arg=BUILDKIT_INLINE_CACHE=1
