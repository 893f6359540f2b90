FROM a
COPY --chown a b
COPY --from= a b
RUN --mount x
FROM --platform b
