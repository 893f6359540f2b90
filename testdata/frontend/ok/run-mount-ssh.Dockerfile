FROM busybox
RUN --mount=type=ssh one
RUN --mount=type=ssh --mount=type=ssh,id=k,required,target=/s --mount=type=ssh,mode=0666,uid=1 two
RUN --mount=type=ssh,target=/own three
ENV SSH_AUTH_SOCK=/set
RUN --mount=type=ssh four
