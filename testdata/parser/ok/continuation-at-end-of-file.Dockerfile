FROM a
RUN one \