#> build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=StageNameCasing
FROM busybox AS Upper
CMD sh
