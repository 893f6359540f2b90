#> targets
# check=skip=StageNameCasing
FROM busybox AS Base
# check=skip=all
RUN true
# Last only the lower-case name counts
# last the last one
FROM --platform=$BUILDPLATFORM base AS last
# check=nonsense
RUN true
FROM base
