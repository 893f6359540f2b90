#> build-arg=V=2
#> build-arg=SOURCE_DATE_EPOCH=src
#> epoch=7
ARG BASE=scratch
FROM $BASE AS Src
ARG V=1
ARG X=a-$V
ADD https://github.com/a/b.git#$X /
FROM busybox
ARG SOURCE_DATE_EPOCH
RUN date
