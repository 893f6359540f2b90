#> context=img=image
#> build-arg=SOURCE_DATE_EPOCH=img
FROM busybox
ARG SOURCE_DATE_EPOCH
RUN date
