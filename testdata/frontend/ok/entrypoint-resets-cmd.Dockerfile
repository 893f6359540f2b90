FROM full AS a
ENTRYPOINT ["x"]
FROM full
CMD ["kept"]
ENTRYPOINT ["x"]
