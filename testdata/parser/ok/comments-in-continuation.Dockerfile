FROM a
RUN one \
# dropped
  # dropped \
  && two \

  && three
