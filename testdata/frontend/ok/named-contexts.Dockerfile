FROM busybox AS image
FROM files AS directory
RUN ls
FROM nowhere AS replaced
RUN never
FROM replaced AS child
RUN on-debian
FROM void
COPY --from=directory /x /x
COPY --from=child /y /y
COPY --from=files /z /z
COPY --from=replaced /r /r
COPY --from=image /i /i
#> context=files=directory
#> context=debian=image
#> context=replaced=directory
#> context=busybox=image
#> context=void=scratch
