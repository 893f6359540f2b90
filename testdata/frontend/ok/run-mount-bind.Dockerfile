#> context=files=directory
#> context=img=image
FROM busybox AS base
FROM busybox
ENV DIR=src
WORKDIR /w
RUN --mount=target=/a one
RUN --mount=type=bind,source=$DIR/x,target=sub/../in,rw two
RUN --mount=from=base,src=/etc/../bin,dst=/b,readwrite=false three
RUN --mount=from=busybox,destination=/c,ro=0 four
RUN --mount=from=files,source=x,target=/d --mount=from=files,source=/x/,target=/e five
RUN --mount=from=scratch,target=/f six
RUN --mount=type=bind seven
RUN --mount=from=BASE,target=/g --mount=from=,target=/h eight
