FROM a
RUN --mount=type=cache,trget=/x y
RUN --mount=type=cache,target y
RUN --mount=nonsense y
RUN --mount=from=$X,target=/y z
