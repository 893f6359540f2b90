FROM a
RUN --mount=type=cache,target=/c,id=x,sharing=locked,mode=0755,uid=1,gid=2,ro --mount=TYPE=secret,required,env=$Y --mount=from=b,src=/s,dst=/t,rw=true --mount=type=tmpfs,target=/t,size=1g --mount=type=ssh,required=false --mount='type=bind,"target=/a,""b"' x
RUN --network=host --security=insecure --device=vendor.com/class=name,required --device=name=x,required=false --device=y x
RUN --network=default --security=sandbox ["x"]
RUN --mount=from=b$,target=/x x
