FROM a
RUN -- --network=none
COPY --link -- --from=x y
RUN --network=none -- x
