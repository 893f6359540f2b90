#> Gemfile 1000
#> Gemfile.lock 1000
#> x.gemspec 1000
#> app.rb 1000
FROM ruby
WORKDIR /app
COPY . .
RUN bundle install
