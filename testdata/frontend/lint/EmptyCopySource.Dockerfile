#> build-arg=EMPTY=
FROM busybox AS base
ARG SRC EMPTY
COPY ${SRC} /x/
COPY --from=busybox $SRC$EMPTY /x/
ADD "" /x/
COPY a $EMPTY ${SRC:-b} /x/
# check=skip=EmptyCopySource
COPY ${SRC} /y/
