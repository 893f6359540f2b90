FROM busybox
ENV A=1
RUN --mount='type=cache,"target=/a,b",id=$A' --mount=type=cache,target=/$A,id="q" true
