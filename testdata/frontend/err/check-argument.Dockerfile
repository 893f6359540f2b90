#> build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=JSONArgsRecommended;error=true
FROM busybox AS Upper
CMD sh
