FROM busybox
CMD ["a", "$B"]
ENTRYPOINT ["c"]
