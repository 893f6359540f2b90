FROM a
COPY --chown="a b":c --exclude='x y' --from=s\ t u v
