FROM a
RUN --mount=type=cache,targt=/x --mount=from=$y,target=/z --mount=foo --mount=id --mount= --mount=\"a,b x
RUN --network=foo --security=bar --device= --device=,required --device=a,b=c --device=a,required=x x
