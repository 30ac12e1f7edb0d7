//! What the server for tests holds, and an exact search over it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ::qdrant_client::qdrant::alias_operations::Action;
use ::qdrant_client::qdrant::condition::ConditionOneOf;
use ::qdrant_client::qdrant::r#match::MatchValue;
use ::qdrant_client::qdrant::point_id::PointIdOptions;
use ::qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use ::qdrant_client::qdrant::query::Variant;
use ::qdrant_client::qdrant::value::Kind;
use ::qdrant_client::qdrant::vector::Vector as Given;
use ::qdrant_client::qdrant::vectors::VectorsOptions;
use ::qdrant_client::qdrant::vectors_config::Config;
use ::qdrant_client::qdrant::{vector_input, vector_output, vectors_output, with_payload_selector, *};
use tonic::Status;

type Answer<T> = Result<T, Status>;

#[derive(Default)]
pub struct Engine {
    collections: BTreeMap<String, Stored>,
    aliases: BTreeMap<String, String>,
}

struct Stored {
    asked: CreateCollection,
    indexed: BTreeSet<String>,
    /// By id; UUIDs as text are in the order of UUIDs.
    points: BTreeMap<String, Point>,
}

#[derive(Clone)]
struct Point {
    payload: HashMap<String, Value>,
    dense: HashMap<String, Vec<f32>>,
    sparse: HashMap<String, BTreeMap<u32, f32>>,
}

/// What is searched for: by meaning or by words.
enum Wanted {
    Dense(Vec<f32>),
    Sparse(BTreeMap<u32, f32>),
}

impl Engine {
    pub fn names(&self) -> Vec<String> {
        self.collections.keys().cloned().collect()
    }

    pub fn behind(&self, alias: &str) -> Option<String> {
        self.aliases.get(alias).cloned()
    }

    pub fn asked(&self, collection: &str) -> Option<CreateCollection> {
        Some(self.collections.get(collection)?.asked.clone())
    }

    pub fn points(&self, collection: &str) -> Option<usize> {
        Some(self.collections.get(collection)?.points.len())
    }

    fn resolved<'a>(&'a self, name: &'a str) -> &'a str {
        self.aliases.get(name).map_or(name, String::as_str)
    }

    fn stored(&self, name: &str) -> Answer<&Stored> {
        self.collections.get(self.resolved(name)).ok_or_else(|| missing(name))
    }

    fn stored_mut(&mut self, name: &str) -> Answer<&mut Stored> {
        let resolved = self.resolved(name).to_owned();
        self.collections.get_mut(&resolved).ok_or_else(|| missing(name))
    }

    pub fn info(&mut self, request: GetCollectionInfoRequest) -> Answer<GetCollectionInfoResponse> {
        let stored = self.stored(&request.collection_name)?;
        let params = CollectionParams {
            shard_number: stored.asked.shard_number.unwrap_or(1),
            vectors_config: stored.asked.vectors_config.clone(),
            ..CollectionParams::default()
        };
        let config = CollectionConfig {
            params: Some(params),
            metadata: stored.asked.metadata.clone(),
            ..CollectionConfig::default()
        };
        let info = CollectionInfo {
            status: CollectionStatus::Green.into(),
            config: Some(config),
            points_count: Some(stored.points.len() as u64),
            ..CollectionInfo::default()
        };
        Ok(GetCollectionInfoResponse { result: Some(info), time: 0.0 })
    }

    pub fn list(&mut self, _: ListCollectionsRequest) -> Answer<ListCollectionsResponse> {
        let collections = self.names().into_iter().map(|name| CollectionDescription { name }).collect();
        Ok(ListCollectionsResponse { collections, time: 0.0 })
    }

    pub fn create(&mut self, request: CreateCollection) -> Answer<CollectionOperationResponse> {
        let name = request.collection_name.clone();
        if self.collections.contains_key(self.resolved(&name)) {
            return Err(Status::invalid_argument(format!("Wrong input: Collection `{name}` already exists!")));
        }
        let stored = Stored { asked: request, indexed: BTreeSet::new(), points: BTreeMap::new() };
        self.collections.insert(name, stored);
        Ok(CollectionOperationResponse { result: true, time: 0.0 })
    }

    pub fn drop_collection(&mut self, request: DeleteCollection) -> Answer<CollectionOperationResponse> {
        let result = self.collections.remove(&request.collection_name).is_some();
        self.aliases.retain(|_, collection| *collection != request.collection_name);
        Ok(CollectionOperationResponse { result, time: 0.0 })
    }

    pub fn change_aliases(&mut self, request: ChangeAliases) -> Answer<CollectionOperationResponse> {
        // All or none, as the real one.
        let mut aliases = self.aliases.clone();
        for action in request.actions.into_iter().filter_map(|operation| operation.action) {
            match action {
                Action::CreateAlias(alias) if self.collections.contains_key(&alias.collection_name) => {
                    drop(aliases.insert(alias.alias_name, alias.collection_name));
                }
                Action::CreateAlias(alias) => return Err(missing(&alias.collection_name)),
                Action::DeleteAlias(alias) => drop(aliases.remove(&alias.alias_name)),
                Action::RenameAlias(_) => return Err(Status::unimplemented("renaming an alias")),
            }
        }
        self.aliases = aliases;
        Ok(CollectionOperationResponse { result: true, time: 0.0 })
    }

    pub fn list_aliases(&mut self, _: ListAliasesRequest) -> Answer<ListAliasesResponse> {
        let described = self.aliases.iter().map(|(alias, collection)| AliasDescription {
            alias_name: alias.clone(),
            collection_name: collection.clone(),
        });
        Ok(ListAliasesResponse { aliases: described.collect(), time: 0.0 })
    }

    pub fn index_field(&mut self, request: CreateFieldIndexCollection) -> Answer<PointsOperationResponse> {
        self.stored_mut(&request.collection_name)?.indexed.insert(request.field_name);
        Ok(done())
    }

    pub fn upsert(&mut self, request: UpsertPoints) -> Answer<PointsOperationResponse> {
        if request.wait != Some(true) {
            return Err(Status::failed_precondition("a write that is not waited for may be lost"));
        }
        let stored = self.stored_mut(&request.collection_name)?;
        for given in request.points {
            let id = given.id.as_ref().and_then(text_id).ok_or_else(|| Status::invalid_argument("id"))?;
            let point = point(given)?;
            for (name, vector) in &point.dense {
                stored.check(name, vector.len())?;
            }
            stored.points.insert(id, point);
        }
        Ok(done())
    }

    pub fn delete(&mut self, request: DeletePoints) -> Answer<PointsOperationResponse> {
        let stored = self.stored_mut(&request.collection_name)?;
        let selected = request.points.and_then(|points| points.points_selector_one_of);
        let Some(PointsSelectorOneOf::Filter(filter)) = selected else {
            return Err(Status::unimplemented("deleting by id"));
        };
        stored.check_filter(&filter)?;
        stored.points.retain(|id, point| !takes(&filter, id, point));
        Ok(done())
    }

    pub fn count(&mut self, request: CountPoints) -> Answer<CountResponse> {
        let count = self.stored(&request.collection_name)?.points.len() as u64;
        Ok(CountResponse { result: Some(CountResult { count }), ..CountResponse::default() })
    }

    pub fn scroll(&mut self, request: ScrollPoints) -> Answer<ScrollResponse> {
        let stored = self.stored(&request.collection_name)?;
        let from = request.offset.as_ref().and_then(text_id).unwrap_or_default();
        let limit = request.limit.unwrap_or(10) as usize;
        let mut rest = stored.points.range(from..);
        let result = rest.by_ref().take(limit).map(|(id, point)| RetrievedPoint {
            id: Some(id.clone().into()),
            payload: point.payload.clone(),
            vectors: Some(point.vectors()),
            ..RetrievedPoint::default()
        });
        let result = result.collect();
        let next_page_offset = rest.next().map(|(id, _)| id.clone().into());
        Ok(ScrollResponse { next_page_offset, result, ..ScrollResponse::default() })
    }

    pub fn query_batch(&mut self, request: QueryBatchPoints) -> Answer<QueryBatchResponse> {
        let stored = self.stored(&request.collection_name)?;
        let result = request.query_points.iter().map(|query| stored.query(query)).collect::<Answer<Vec<_>>>()?;
        Ok(QueryBatchResponse { result, ..QueryBatchResponse::default() })
    }
}

impl Stored {
    fn check(&self, name: &str, length: usize) -> Answer<()> {
        let config = self.asked.vectors_config.as_ref().and_then(|config| config.config.as_ref());
        let Some(Config::ParamsMap(map)) = config else { return Err(Status::internal("no named vectors")) };
        let size = map.map.get(name).ok_or_else(|| Status::invalid_argument(format!("no vector {name}")))?.size;
        if size != length as u64 {
            return Err(Status::invalid_argument(format!("expected dim: {size}, got {length}")));
        }
        Ok(())
    }

    /// As a server in strict mode: no filter without an index.
    fn check_filter(&self, filter: &Filter) -> Answer<()> {
        for condition in filter.must.iter().chain(&filter.must_not) {
            if let Some(ConditionOneOf::Field(field)) = &condition.condition_one_of
                && !self.indexed.contains(&field.key)
            {
                return Err(Status::invalid_argument(format!("no index for {}", field.key)));
            }
        }
        Ok(())
    }

    fn query(&self, query: &QueryPoints) -> Answer<BatchResult> {
        let mut among = BTreeSet::new();
        for part in &query.prefetch {
            let limit = part.limit.unwrap_or(10);
            let found = self.nearest(part.query.as_ref(), part.using.as_deref(), part.filter.as_ref(), None, limit)?;
            among.extend(found.into_iter().map(|(id, _)| id));
        }
        let among = (!query.prefetch.is_empty()).then_some(&among);
        let limit = query.limit.unwrap_or(10);
        let found = self.nearest(query.query.as_ref(), query.using.as_deref(), query.filter.as_ref(), among, limit)?;
        let selected = query.with_payload.as_ref().and_then(|with| with.selector_options.as_ref());
        let with_payload = selected == Some(&with_payload_selector::SelectorOptions::Enable(true));
        let scored = found.into_iter().map(|(id, score)| {
            let payload = match with_payload {
                true => self.points.get(&id).map(|point| point.payload.clone()).unwrap_or_default(),
                false => HashMap::new(),
            };
            ScoredPoint { id: Some(id.into()), payload, score, ..ScoredPoint::default() }
        });
        Ok(BatchResult { result: scored.collect() })
    }

    /// The best points by one vector, with their scores.
    fn nearest(
        &self,
        query: Option<&Query>,
        using: Option<&str>,
        filter: Option<&Filter>,
        among: Option<&BTreeSet<String>>,
        limit: u64,
    ) -> Answer<Vec<(String, f32)>> {
        let name = using.unwrap_or_default();
        let wanted = wanted(query)?;
        if let Wanted::Dense(vector) = &wanted {
            self.check(name, vector.len())?;
        }
        if let Some(filter) = filter {
            self.check_filter(filter)?;
        }
        let weights = match &wanted {
            Wanted::Sparse(terms) => self.weighted(name, terms),
            Wanted::Dense(_) => BTreeMap::new(),
        };
        let score = |point: &Point| match &wanted {
            Wanted::Dense(vector) => Some(cosine(vector, point.dense.get(name)?)),
            Wanted::Sparse(_) => {
                let held = point.sparse.get(name)?;
                let mut products =
                    weights.iter().filter_map(|(term, weight)| Some(weight * held.get(term)?)).peekable();
                products.peek()?;
                Some(products.sum())
            }
        };
        let candidates = self.points.iter().filter(|(id, point)| {
            among.is_none_or(|among| among.contains(*id)) && filter.is_none_or(|filter| takes(filter, id, point))
        });
        let mut scored: Vec<(String, f32)> =
            candidates.filter_map(|(id, point)| Some((id.clone(), score(point)?))).collect();
        scored.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        scored.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(scored)
    }

    /// The terms of a request times their inverse document frequencies.
    fn weighted(&self, name: &str, terms: &BTreeMap<u32, f32>) -> BTreeMap<u32, f32> {
        let documents = || self.points.values().filter_map(|point| point.sparse.get(name));
        let total = documents().count() as f32;
        let weight = |(term, value): (&u32, &f32)| {
            let holding = documents().filter(|document| document.contains_key(term)).count() as f32;
            (*term, value * ((total - holding + 0.5) / (holding + 0.5) + 1.0).ln())
        };
        terms.iter().map(weight).collect()
    }
}

impl Point {
    fn vectors(&self) -> VectorsOutput {
        let output = |vector| VectorOutput { vector: Some(vector), ..VectorOutput::default() };
        let dense = self.dense.iter().map(|(name, data)| {
            let vector = vector_output::Vector::Dense(DenseVector { data: data.clone() });
            (name.clone(), output(vector))
        });
        let sparse = self.sparse.iter().map(|(name, terms)| {
            let (indices, values) = (terms.keys().copied().collect(), terms.values().copied().collect());
            (name.clone(), output(vector_output::Vector::Sparse(SparseVector { values, indices })))
        });
        let vectors = NamedVectorsOutput { vectors: dense.chain(sparse).collect() };
        VectorsOutput { vectors_options: Some(vectors_output::VectorsOptions::Vectors(vectors)) }
    }
}

fn point(given: PointStruct) -> Answer<Point> {
    let options = given.vectors.and_then(|vectors| vectors.vectors_options);
    let Some(VectorsOptions::Vectors(named)) = options else { return Err(Status::invalid_argument("vectors")) };
    let mut point = Point { payload: given.payload, dense: HashMap::new(), sparse: HashMap::new() };
    for (name, vector) in named.vectors {
        match vector.vector {
            Some(Given::Dense(vector)) => drop(point.dense.insert(name, vector.data)),
            Some(Given::Sparse(vector)) => {
                drop(point.sparse.insert(name, vector.indices.into_iter().zip(vector.values).collect()));
            }
            _ => return Err(Status::invalid_argument(format!("vector {name}"))),
        }
    }
    Ok(point)
}

fn wanted(query: Option<&Query>) -> Answer<Wanted> {
    let Some(Variant::Nearest(input)) = query.and_then(|query| query.variant.as_ref()) else {
        return Err(Status::unimplemented("queries other than the nearest"));
    };
    match &input.variant {
        Some(vector_input::Variant::Dense(vector)) => Ok(Wanted::Dense(vector.data.clone())),
        Some(vector_input::Variant::Sparse(vector)) => {
            Ok(Wanted::Sparse(vector.indices.iter().copied().zip(vector.values.iter().copied()).collect()))
        }
        _ => Err(Status::unimplemented("vectors other than dense and sparse")),
    }
}

fn takes(filter: &Filter, id: &str, point: &Point) -> bool {
    let holds = |condition: &Condition| match &condition.condition_one_of {
        Some(ConditionOneOf::Field(field)) => matches(field, point),
        Some(ConditionOneOf::HasId(ids)) => ids.has_id.iter().filter_map(text_id).any(|other| other == id),
        _ => false,
    };
    filter.must.iter().all(holds) && !filter.must_not.iter().any(holds)
}

fn matches(field: &FieldCondition, point: &Point) -> bool {
    let Some(Kind::StringValue(value)) = point.payload.get(&field.key).and_then(|value| value.kind.as_ref()) else {
        return false;
    };
    match field.r#match.as_ref().and_then(|matched| matched.match_value.as_ref()) {
        Some(MatchValue::Keyword(wanted)) => wanted == value,
        Some(MatchValue::Keywords(wanted)) => wanted.strings.contains(value),
        _ => false,
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(x, y)| x * y).sum() };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

fn text_id(id: &PointId) -> Option<String> {
    match id.point_id_options.as_ref()? {
        PointIdOptions::Uuid(id) => Some(id.clone()),
        PointIdOptions::Num(_) => None,
    }
}

fn missing(name: &str) -> Status {
    Status::not_found(format!("Not found: Collection `{name}` doesn't exist!"))
}

fn done() -> PointsOperationResponse {
    let result = UpdateResult { operation_id: Some(1), status: UpdateStatus::Completed.into() };
    PointsOperationResponse { result: Some(result), ..PointsOperationResponse::default() }
}
