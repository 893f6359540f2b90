#> pom.xml 1000
#> .mvn/maven.config 1000
#> src/A.java 1000
FROM maven
WORKDIR /app
COPY . .
RUN mvn -B dependency:go-offline && mvn -B package
