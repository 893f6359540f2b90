#> secret-version=token=3
#> build-arg=ID=token
FROM busybox
ARG ID
ENV GIVEN=$ID
RUN --mount=type=secret,id=token one
RUN --mount=type=secret,target=/root/.npmrc,required two
RUN --mount=type=secret,id=$ID,env=TOKEN echo $TOKEN $GIVEN $UNSET
RUN --mount=type=secret,id=a/b,env=,required=true three
RUN --mount=type=secret,id=x,env=X,target=rel,mode=0440,uid=5,gid=6 four
RUN --mount=type=secret,source=s five
