FROM a
COPY --exclude=a --exclude=b c d
RUN --mount=target=/a --mount=target=/b --device=x --device=y z
