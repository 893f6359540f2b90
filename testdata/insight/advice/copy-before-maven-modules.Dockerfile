#> pom.xml 1000
#> a/pom.xml 1000
#> a/A.java 1000
FROM maven
WORKDIR /app
COPY . .
RUN mvn dependency:go-offline
