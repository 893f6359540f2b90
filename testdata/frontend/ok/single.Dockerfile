FROM busybox
RUN echo "hello  $PATH $NOPE" && true
COPY a b/ /dest/
CMD ["sh"]
