FROM full
CMD ["x"]
ENTRYPOINT ["/new"]
